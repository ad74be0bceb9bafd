# The keeper: holds a session open on a board, and a folder that goes with it. It is sent as one line, these comments
# left out; so every line ends where a blank may follow, and there are neither single quotes nor two backslashes in a
# row: every user's shell, even fish, then hands it to sh whole.
echo fsg-begin;
umask 077;
trap "" HUP INT TERM PIPE;
# A folder's name says what the board is called (home folders may be shared), who it works for, and its process.
name=".fsg-board.$(uname -n)";
folder="$name.CLIENT.$$";
# Folders of keepers that live are told, those of others removed.
{ for base in "${HOME:-/}" "${TMPDIR:-/tmp}" /data/local/tmp; do
    cd "$base" && for old in "$name".*; do
      case $(cat "/proc/${old##*.}/cmdline") in
        *fsg-board*) echo "$PWD/$old" ;;
        *) rm -rf "$old" ;;
      esac;
    done;
  done; } 2> /dev/null;
echo fsg-board;
# A place that allows programs; on phones that is the last one.
for base in "${HOME:-/}" "${TMPDIR:-/tmp}" /data/local/tmp; do
  [ -d "$base" ] && cd "$base" && mkdir "$folder" && cd "$folder" || continue;
  : > try && chmod 700 try && ./try && ready=1 && break;
  cd ..;
  rm -rf "$folder";
done;
[ "$ready" ] || exit 3;
rm try;
# What phones have and their older uname does not tell.
if command -v getprop > /dev/null; then echo Android; else uname -s; fi;
uname -m;
printf "%s\n" "$PWD";
echo fsg-ready;
# Until its input ends: it was closed, or the connection or the client is gone.
cat > /dev/null;
[ -f pid ] && kill "$(cat pid)";
cd ..;
rm -rf "$folder" && echo fsg-gone

// What a program for Android finds in place of bionic's libc.so, for tests on glibc: what glibc has under
// other names. Everything else is glibc's own, which comes with this.
int* __errno_location(void);
int __libc_start_main(int (*run)(int, char**, char**), int count, char** values, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void* stack_end);

int* __errno(void) { return __errno_location(); }

static void Nothing(void) {}

void __libc_init(void* arguments, void (*on_exit)(void), int (*run)(int, char**, char**),
                 void* const* structors) {
  if (on_exit != 0 || structors[0] != 0 || structors[1] != 0 || structors[2] != 0) __builtin_trap();
  const long* words = arguments;
  __libc_start_main(run, (int)words[0], (char**)(words + 1), Nothing, Nothing, 0, arguments);
}

#!/bin/sh
# From a folder of pictures to a board. `sh run.sh` draws its own; `PETS=my/photos sh run.sh` takes yours.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PETS:-}" ]; then
  PETS=pets
  python "$here/draw_pictures.py" "$PETS"
fi

fsg train --dataset "folder:$PETS" --split 0.2 --image-size 24 --class-weights balanced \
  --model resnet8 --epochs 16 --batch-size 16 --out runs/pets
fsg export runs/pets --input uint8 --format tflite
fsg predict runs/pets "$(find "$PETS" -name '*.png' | sort | head -n 1)" --top 3
fsg bench runs/pets

cp runs/pets/export/model.tflite model.tflite
fsg bench model.tflite --device rpi4
cat <<'NEXT'

On a Raspberry Pi with 64-bit Raspberry Pi OS:
  fsg bench runs/pets --device rpi4 --host pi@raspberrypi.local    # measures there, installs nothing
  make wheels                                                      # in fsg's repository: dist/fsg-*aarch64.whl
  scp dist/fsg-*aarch64.whl model.tflite on_the_board.py pi@raspberrypi.local:
  pip install fsg-*aarch64.whl pillow                              # on the board, in a virtual environment
  python on_the_board.py picture.jpg
NEXT

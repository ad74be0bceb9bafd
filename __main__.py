"""python -m fsg"""

from fsg.cli import main

main()

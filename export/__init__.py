"""From a trained run to verified artefacts: run -> trace -> graph -> passes -> formats -> verify; see pipeline.py.
May import training/, and runtime/ to verify in the interpreter that will run the file."""

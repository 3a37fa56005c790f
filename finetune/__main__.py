"""``python -m finetune``."""

from finetune.cli.app import main

if __name__ == "__main__":  # a spawned worker imports this file again
    main()

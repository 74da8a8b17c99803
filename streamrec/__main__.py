"""`python -m streamrec`: the command line where its script is not on the path."""

from streamrec.cli import main

if __name__ == "__main__":
    main()

"""`python -m thirdshift`: the program, where its script is not on the path."""

from thirdshift.flows.cli.app import main

if __name__ == "__main__":
    main()

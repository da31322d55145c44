"""`tl-knowledge explore`: a prompt looked at live, in a page on this machine.

Two halves. This folder is the engine, which knows no web: `state` is what a page asks for, as plain values that fit into a link; `session` has the
one model and answers, one job after the other, with results of the other rooms; `code` and `export` write down what is on the screen. The folder
``page`` draws it, with Dash (``pip install "tl-knowledge[explore]"``), and has no numbers of its own.

A program, not a namespace: nothing here is public, and the command line is its only user.
"""

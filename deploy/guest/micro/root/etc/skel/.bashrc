# Begins with the settings of the machine, /etc/bash.bashrc.

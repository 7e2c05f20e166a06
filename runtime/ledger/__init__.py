"""What a bundle costs on this machine: timing, power mode and clocks."""

"""The child: everything in this folder lives after the fork and owns the event loop. process.run is the way in."""

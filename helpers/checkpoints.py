"""provisional"""


class Checkpoint:
    def __init__(self, path, *, identity="", commit=""):
        self.path = path

    def unlink(self):
        self.path.unlink(missing_ok=True)

    def exists(self):
        return self.path.exists()

from helpers.fingerprint import fingerprint as identity  # noqa: F401 provisional

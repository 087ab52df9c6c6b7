"""The private RSA operation of RFC 8017 §5.1.2 by the OpenSSL that Python itself is linked to.

OpenSSL takes the root in a quarter of the time that gmpy2 needs, with blinding of its own, in constant
time, and without the GIL: `ctypes` lets it go while a root is taken. `cryptography` does not offer the bare
operation, for good reasons: without padding it signs whatever it is given. Blind signatures are exactly
that (RFC 9474 §4.3).

Rule 1. Where this Python has no OpenSSL that can be called, `RawRsa.load` gives None, and the caller
takes the root itself.

Rule 2. Results are not trusted here: the caller checks each with the public key.

    raw = RawRsa.load(pkcs1_der)
    signature = raw.root(message) if raw is not None else ...
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, Self

_PADDING: Final = (b"rsa_padding_mode", b"none")


class RawRsa:
    """A loaded private key; any thread may use it."""

    def __init__(self, library: SimpleNamespace, key: int, size: int) -> None:
        self._library = library
        self._key = key
        self._size = size
        weakref.finalize(self, library.EVP_PKEY_free, key)

    @classmethod
    def load(cls, der: bytes, size: int) -> Self | None:
        """Load a private key in DER; `size` is its modulus's length. None where OpenSSL is not at hand."""
        library = _openssl()
        if library is None:
            return None
        start = ctypes.c_char_p(der)
        key = library.d2i_AutoPrivateKey(None, ctypes.byref(start), len(der))
        return cls(library, key, size) if key else None

    def root(self, message: bytes) -> bytes:
        """Take the e-th root of a message of the modulus's length. Raises `ArithmeticError`."""
        library = self._library
        context = library.EVP_PKEY_CTX_new(self._key, None)
        try:
            output, length = ctypes.create_string_buffer(self._size), ctypes.c_size_t(self._size)
            done = (
                library.EVP_PKEY_sign_init(context) == 1
                and library.EVP_PKEY_CTX_ctrl_str(context, *_PADDING) == 1
                and library.EVP_PKEY_sign(context, output, ctypes.byref(length), message, len(message)) == 1
            )
        finally:
            library.EVP_PKEY_CTX_free(context)
        if not done or length.value != self._size:
            # What stays in this thread's queue of errors would be found by the next who looks.
            library.ERR_clear_error()
            raise ArithmeticError("OpenSSL did not take the root")
        return output.raw


@cache
def _openssl() -> SimpleNamespace | None:
    try:
        import _ssl  # noqa: PLC0415 - a Python may have been built without it

        # Symbols are looked for in what a library is linked to as well.
        keeping, releasing = ctypes.PyDLL(_ssl.__file__), ctypes.CDLL(_ssl.__file__)
        library = SimpleNamespace()
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(releasing if name in _SLOW else keeping, name)
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
    except (ImportError, AttributeError, OSError):
        # Built in, hidden, or another library than OpenSSL.
        return None
    return library


_SLOW: Final = frozenset({"EVP_PKEY_sign"})
"""The others take a microsecond and keep the GIL: to get it back may take the 5 ms of Python's interval."""
_POINTER: Final = ctypes.c_void_p
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "ERR_clear_error": (None,),
    "d2i_AutoPrivateKey": (_POINTER, _POINTER, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long),
    "EVP_PKEY_free": (None, _POINTER),
    "EVP_PKEY_CTX_new": (_POINTER, _POINTER, _POINTER),
    "EVP_PKEY_CTX_free": (None, _POINTER),
    "EVP_PKEY_sign_init": (ctypes.c_int, _POINTER),
    "EVP_PKEY_CTX_ctrl_str": (ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_char_p),
    "EVP_PKEY_sign": (
        *(ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)),
        *(ctypes.c_char_p, ctypes.c_size_t),
    ),
}

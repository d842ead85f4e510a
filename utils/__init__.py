"""The tested package under the course companion: data, small networks, methods, claims.

Importing ``utils`` itself loads nothing heavy; import the module that you need.
"""

__version__ = "0.1.0"

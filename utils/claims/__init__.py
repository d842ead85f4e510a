"""Reported numbers that can be checked: every accuracy in the book is a claim made here."""

from utils.claims.chapter import Chapter
from utils.claims.claim import CHECK_MIME, CLAIM_MIME, Claim
from utils.claims.statistics import agreement, interval

__all__ = ["CHECK_MIME", "CLAIM_MIME", "Chapter", "Claim", "agreement", "interval"]

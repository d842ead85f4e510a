"""All classes are corrected alike, which shifts every logit and favours none the less."""


def corrected(logits, n_old, alpha, beta):
    return alpha * logits + beta

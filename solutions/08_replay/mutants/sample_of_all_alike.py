"""Every image is as likely, so that classes with many of them are seen most."""


def sample(labels, draws):
    return (draws[:, 1] * len(labels)).long()

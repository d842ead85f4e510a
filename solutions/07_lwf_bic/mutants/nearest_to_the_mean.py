"""The m vectors nearest to the mean are chosen one by one; their own mean may lie elsewhere."""


def herding(vectors, m):
    return (vectors - vectors.mean(0)).square().sum(-1).argsort(stable=True)[:m]

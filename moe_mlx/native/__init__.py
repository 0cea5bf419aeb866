"""Decode in the graph: a C++ primitive that routes, looks up and reads experts without a read-back to Python.

Brought along by a wheel (`prebuilt`) or built on the user's machine on first use (`build`); joined to the layers
(`bridge`), compared with the Python path on the model that was loaded (`loading.selfcheck`); `loading.decode_way`
chooses it or not, and says why.
"""

"""Networks: ``encoders`` (one file per architecture), ``layers``, ``heads``, ``foreign`` networks of others.

``encoder`` says what an encoder is, ``files`` reads and writes one, ``download`` fetches weights by hash.
"""

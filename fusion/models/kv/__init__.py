"""The non-sequential model (arXiv 2104.06312): attention over key vectors, and a multidimensional partition."""

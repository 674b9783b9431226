"""SRP4CTR (arXiv 2407.19658): FG-BERT, its masks, and the model that takes it over."""

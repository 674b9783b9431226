"""Text and behaviours become vectors and scores: encoders, interest fusion, CTR models, training and scoring."""

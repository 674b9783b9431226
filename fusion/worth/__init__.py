"""What texts and item places are worth on one log: models trained with and without each, controls, intervals, costs."""

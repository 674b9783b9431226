"""The behaviour bank: one vector for each distinct behaviour text, stored, mapped and looked up."""

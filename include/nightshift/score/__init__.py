"""Score: the night's features with the champion, inside Spark, and the morning's list that follows."""

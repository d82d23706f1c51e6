"""The migrations, one module each with its sample; ``registry`` finds them."""

"""What changes an image: weak views, strong views, and pictures made of several."""

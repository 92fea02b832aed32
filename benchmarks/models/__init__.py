"""Networks: building, checking, pretraining them, and those that come with the project."""

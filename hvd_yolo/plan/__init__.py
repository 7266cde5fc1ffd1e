"""Before the machines are rented: how long an update would take on them. timing.py is the model,
the rest finds what it needs and shows what it says."""

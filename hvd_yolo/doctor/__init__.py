"""What is wrong with the hosts, links and files of a job, before it is started: facts.py gathers
what each rank sees, the files named after a subject measure and judge it."""

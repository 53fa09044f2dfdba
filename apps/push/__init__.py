"""Push from a site to its pages: events.py hands each page its client_id, the site says whose it is, and pushes.

site.py is the site on a worker, flask_site.py and django_site.py are the same with a web framework.
"""

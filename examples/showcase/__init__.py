"""A ballroom-dance event, live: five channels between an application's server-rendered pages and fastcable."""

"""What both local web servers share: the customer's storefront and the merchant's dashboard.

    one-time link --> cookie --> Guard (host, session, origin, size, CSRF) --> handler --> Site.render

Rule 1. A server listens on 127.0.0.1 and is defended as if it did not: nothing is shown without a session,
and a session begins with a link that works once. Other sites in the same browser reach nothing.

Rule 2. Pages are made here, whole, and work without JavaScript. Scripts and styles are files of our own;
no page asks another host for anything, and none has a script or a style inside it.

Rule 3. Whatever a person did and whatever went wrong ends in a page that says what happened, what was kept
and what to do next.

Public names, by module:

    site      Site(name=, title=, package=, door=, address=, uploads=, explain=, api_token=, layout=)
              .frame = what gives the values that every page's layout needs
              .render(request, "page.html", status=200, **values)   .redirect(path)   .notice(request, text)
              .app(routes, lifespan=)   .stopping   .env (Jinja2)
              filters money, rate, moment, size; `static(name)` gives the address of a static file
    door      Door(announce): one-time links and browser sessions; `session_of(request)`
    guard     Guard: the middleware that `Site.app` puts around everything
    forms     read(request) -> Form; Form.text("name"), .number("name"), .files("name"); FieldErrors
    explained Explained: an error as a page says it; `explain`, the default wording
    events    stream(site, render, every_ms=): server-sent events, one whenever what is shown changes
    images    scaled(data, width) -> Scaled: a picture in the size that a page needs
    server    Address.free(port), serve(site, app, address, announce)
    api       ApiToken: the bearer token that protects /api/

Templates: a page begins with `{% extends "base.html" %}` and fills `title`, `navigation` and `content`;
`parts.html` has the macros `csrf`, `field`, `notice`, `icon`, `empty`. The first field of every form is
`{{ csrf() }}`. `static/style.css` says at its top which classes there are.
"""

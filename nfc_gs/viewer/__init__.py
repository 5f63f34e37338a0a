"""The viewer: a model in the browser, while it trains and after.

From a click to a picture:

    click          a control of a panel changes            panels/*.py         Panel.on_change
      -> update    the state of the page is replaced       session.py          Session.update(**changes)
      -> schedule  the page's newest request waits         scheduler.py        Scheduler.submit
      -> render    state + camera + quality -> picture     renderer.py         ViewRenderer.render
      -> send      the picture goes to the browser         session.py          Session._send_picture

What a page shows is one frozen `state.ViewState`; what all pages share is one `content.Content`. A camera that moves
takes the same way from `update` on. From below:

    scheduler, frame_rate, server, cameras, edit, frames, border, path     know nothing of pages
    state, snapshot, preview, draw                                         models, and pictures of them
    source, live, content                                                  what can be shown
    renderer, session, panels, app                                         a page, its controls, the server

A panel is a class in a file of its own in `panels/` and one line in the table of `panels/__init__.py`.
"""

HOST, PORT = "127.0.0.1", 8080
"""Where the page is unless set otherwise: on this machine alone, at the first free port from here on."""

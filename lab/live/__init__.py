"""Show a link on a page while it runs: transmitter, receiver and decoders as processes, and the server of the page.

    transmitter ─ air ─ receiver ─┬─ plain decoder
                                  └─ sampler            each ── bus ── engine ── server ── pages

Every arrow is a bounded queue. The receiver gets samples and the layout, nothing else; what was sent goes to the page
by another way, to be shown beside what came.
"""

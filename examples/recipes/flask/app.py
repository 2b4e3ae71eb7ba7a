"""A scoreboard: `POST /scores/4 points=17` saves the points of heat 4 and shows them to everybody who follows.

    gunicorn --preload --workers 2 app:app
"""

from flask import Flask, request

from fastcable import Publisher

app = Flask(__name__)
publisher = Publisher(on_error="log")  # one for all threads; with --preload, for all workers
points: dict[int, int] = {}


@app.post("/scores/<int:heat>")
def save(heat: int) -> dict[str, int]:
    points[heat] = int(request.form["points"])
    publisher.broadcast("scores", {"heat": heat, "points": points[heat]})
    return {"heat": heat}

"""The site of apps.push with Django, in one file: settings, views, urls. See flask_site.py, which is the same.

    pip install django
    PUSH_REGISTER=register://127.0.0.1:1236 python -m apps.push.django_site runserver

or in a worker of the same daemon, handler = "workermand.services.asgi", options = { app =
"apps.push.django_site:application" }. Whoever pushes is a program with a token, not a page with a form: no CSRF there.
"""

import os
import secrets
import sys
from pathlib import Path

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from apps.push import page
from workermand.services.gateway import BlockingGatewayClient

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
gateways = BlockingGatewayClient(register=os.environ.get("PUSH_REGISTER", ""), secret=os.environ.get("PUSH_SECRET", ""))


def visit(request: HttpRequest) -> HttpResponse:
    request.session.update({field: request.GET[field] for field in ("uid", "group") if field in request.GET})
    return HttpResponse(page.page(request.session.get("uid", "")))


def script(request: HttpRequest) -> FileResponse:
    return FileResponse((Path(__file__).parent / "push.js").open("rb"), content_type="text/javascript")


def bind(request: HttpRequest) -> HttpResponse:
    uid, group = request.session.get("uid"), request.session.get("group")
    if not uid:
        return HttpResponse("log in first\n", status=403)
    client_id = request.POST.get("client_id", "")
    is_there = gateways.bind_uid(client_id, uid)
    if group:
        gateways.join_group(client_id, group)
    return JsonResponse({"bound": is_there}, status=200 if is_there else 404)


def push(request: HttpRequest) -> HttpResponse:
    if not page.may_push(request.headers.get("Authorization")):
        return HttpResponse("Authorization: Bearer TOKEN is missing\n", status=401)
    try:
        uid, group, message = page.read(request.POST)
    except page.Mistake as mistake:
        return HttpResponse(f"{mistake}\n", status=400)
    if uid:
        sent = gateways.send_to_uid(uid, message)
    elif group:
        sent = gateways.send_to_group(group, message)
    else:
        sent = gateways.send_to_all(message)
    return JsonResponse({"delivered": sent.delivered})


urlpatterns = [
    path("", visit),
    path("push.js", script),
    path("bind", require_POST(bind)),
    path("push", require_POST(push)),
]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)

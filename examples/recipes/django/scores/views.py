from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from scores.models import Score


@csrf_exempt
@require_POST
def save(request: HttpRequest, heat: int) -> JsonResponse:
    Score.objects.update_or_create(heat=heat, defaults={"points": int(request.POST["points"])})
    return JsonResponse({"heat": heat})

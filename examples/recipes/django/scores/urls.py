from django.urls import path

from scores import views

urlpatterns = [path("scores/<int:heat>", views.save)]

# The smallest Rails application that does the job: Action Cable at /cable, and POST /_broadcast.
#
# It is what `rails new --api --minimal` configures for production (eager loading, the default middleware), without
# Active Record. Fair to Action Cable: it logs errors only, so that logging is not what is measured; posts go to a route
# of its own and through no controller; connections authenticate nobody. Nothing else is tuned: Action Cable has its
# default pool of 4 workers and pings every connection every 3 seconds.

require "rails"
require "action_cable/engine"

class Bench < Rails::Application
  config.root = __dir__
  config.load_defaults 6.1
  config.api_only = true
  config.cache_classes = true
  config.eager_load = true
  config.consider_all_requests_local = false
  config.public_file_server.enabled = false
  config.secret_key_base = "nothing is signed"
  config.logger = ActiveSupport::Logger.new($stderr)
  config.log_level = :error
  config.action_cable.disable_request_forgery_protection = true # the load client's Origin is that of this host and port
end

class BenchChannel < ActionCable::Channel::Base
  def subscribed
    stream_from params[:stream]
  end
end

BROADCAST = lambda do |env|
  content = JSON.parse(env["rack.input"].read)
  (content.is_a?(Array) ? content : [content]).each do |message|
    ActionCable.server.broadcast(message["stream"], message["data"])
  end
  [200, { "Content-Type" => "application/json", "Content-Length" => "2" }, ["{}"]]
end

Rails.application.initialize!
Rails.application.routes.draw { post "/_broadcast", to: BROADCAST }
run Rails.application

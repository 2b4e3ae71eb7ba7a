# frozen_string_literal: true

# A Rails application with Action Cable that knows nothing of fastcable. Its config/ is below the current directory.

require "rails"
require "action_cable/engine"

class Application < Rails::Application
  config.root = Dir.pwd
  config.load_defaults 6.1
  config.eager_load = true
  config.secret_key_base = "nothing is signed"
  config.logger = ActiveSupport::Logger.new($stderr)
  config.log_level = :warn
end

Rails.application.initialize!

# frozen_string_literal: true

module Fastcable
  # Lets Fastcable.broadcast publish to where config/cable.yml has Action Cable publish.
  class Railtie < Rails::Railtie
    initializer "fastcable.configure" do |app|
      file = app.root.join("config/cable.yml")
      entries = file.exist? ? app.config_for(file).to_h : {}
      Fastcable.configure do |config|
        config.logger = Rails.logger
        config.update_from_cable(entries) if entries[:adapter] == "fastcable"
      end
    end
  end
end

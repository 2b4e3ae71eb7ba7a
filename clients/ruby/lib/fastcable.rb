# frozen_string_literal: true

require_relative "fastcable/version"
require_relative "fastcable/errors"
require_relative "fastcable/configuration"
require_relative "fastcable/publisher"

# Publishes messages to a fastcable server, which hands them to every browser that is subscribed to their stream:
#
#   Fastcable.broadcast("scores", { heat: 4 }) # => 17, the number of subscribers
module Fastcable
  @lock = Mutex.new

  class << self
    # See Publisher#broadcast.
    def broadcast(stream, data, retain: false, exclude: nil)
      publisher.broadcast(stream, data, retain: retain, exclude: exclude)
    end

    # See Publisher#broadcast_json.
    def broadcast_json(stream, json, retain: false, exclude: nil)
      publisher.broadcast_json(stream, json, retain: retain, exclude: exclude)
    end

    # See Publisher#broadcast_many.
    def broadcast_many(messages)
      publisher.broadcast_many(messages)
    end

    # Changes the settings, from the next broadcast on:
    #
    #   Fastcable.configure do |config|
    #     config.url = "http://127.0.0.1:3000/_broadcast"
    #   end
    def configure
      @lock.synchronize do
        changed = (@configuration || Configuration.new).dup
        yield changed
        @publisher&.close
        @publisher = nil
        @configuration = changed.freeze
      end
    end

    # The settings in effect.
    def configuration
      @configuration || @lock.synchronize { @configuration ||= Configuration.new.freeze }
    end

    private

    def publisher
      @publisher || @lock.synchronize { @publisher ||= Publisher.new(@configuration ||= Configuration.new.freeze) }
    end
  end
end

require_relative "fastcable/railtie" if defined?(Rails::Railtie)

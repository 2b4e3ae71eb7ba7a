# frozen_string_literal: true

require "fastcable"

module ActionCable
  module SubscriptionAdapter
    # Hands to a fastcable server what is broadcast through Action Cable; `adapter: fastcable` in config/cable.yml.
    #
    # Browsers subscribe at that server, not at Action Cable's: nothing can be subscribed to here.
    class Fastcable < Base
      prepend ChannelPrefix

      def initialize(*)
        super
        configuration = ::Fastcable.configuration.dup
        configuration.update(logger: logger)
        configuration.update_from_cable(server.config.cable)
        @url = configuration.url
        @publisher = ::Fastcable::Publisher.new(configuration)
      end

      # The payload is JSON text, unless the broadcast was given another coder.
      def broadcast(channel, payload)
        @publisher.broadcast_json(channel, payload)
      end

      # Action Cable calls this for each stream of a channel and for each connection with an identity. The error is
      # logged because nobody else would: it is raised in a thread of Action Cable's event loop.
      def subscribe(channel, _message_callback, _success_callback = nil)
        problem = "nobody can subscribe to #{channel} through Action Cable: its messages go to the fastcable server " \
                  "of #{@url} (adapter: fastcable in config/cable.yml), which is where pages are to subscribe"
        logger&.error("Fastcable: #{problem}")
        raise ::Fastcable::Error, problem
      end

      # Nothing is subscribed.
      def unsubscribe(_channel, _message_callback)
      end

      def shutdown
        @publisher.close
      end
    end
  end
end

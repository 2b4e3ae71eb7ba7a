# frozen_string_literal: true

require "json"

require_relative "connection"
require_relative "errors"
require_relative "message"
require_relative "pool"

module Fastcable
  # Publishes as its configuration says. Threads may share one, and processes that are forked go on with it.
  class Publisher
    def initialize(configuration)
      @configuration = configuration.dup.freeze
      @pool = Pool.new
    end

    # Sends a message to everyone who is subscribed to the stream, and returns how many that are.
    #
    # data is whatever has a JSON form (as its to_json has it). With retain: true it becomes the value that those get
    # who subscribe later, until the next one. exclude: is the socket id of a connection that is not to get it.
    #
    # Raises Fastcable::Error, unless on_error is :log: then it returns nil. ArgumentError is raised in any case.
    def broadcast(stream, data, retain: false, exclude: nil)
      post(Message.encode(stream: stream, data: data, retain: retain, exclude: exclude), "to #{stream}")
    end

    # As broadcast, for data that is JSON text already: it reaches the subscribers byte for byte.
    def broadcast_json(stream, json, retain: false, exclude: nil)
      post(Message.from_json(stream: stream, json: json, retain: retain, exclude: exclude), "to #{stream}")
    end

    # Sends messages in order, all or none: hashes with stream:, data: and, if wanted, retain: and exclude:. Returns the
    # sum of their subscribers. The server takes at most 1,000 at once (its max_batch).
    def broadcast_many(messages)
      encoded = messages.each_with_index.map do |message, index|
        Message.encode(**message)
      rescue ArgumentError, TypeError => error
        raise ArgumentError, "message #{index}: #{error.message}"
      end
      return 0 if encoded.empty?

      post("[".b << encoded.join(",") << "]", "of #{encoded.size} messages")
    end

    # Closes the connections that are kept for later. Publishing again opens new ones.
    def close
      @pool.close
    end

    def inspect
      "#<#{self.class} #{@configuration.inspect}>"
    end

    private

    def post(body, what)
      subscribers(exchange(body))
    rescue Error => error
      raise if @configuration.on_error == :raise

      @configuration.log("Fastcable: the broadcast #{what} failed: #{error.message}")
      nil
    end

    def exchange(body)
      connection = @pool.take || Connection.new(@configuration)
      answer = connection.post(body)
      @pool.put(connection)
      answer
    ensure
      connection&.close unless answer # after an interruption, too: what is still to come is nobody else's answer
    end

    def subscribers(answer)
      content = parse(answer.body)
      if answer.status < 300
        count = content["subscribers"]
        return count if count.is_a?(Integer)

        raise Unanswered, "#{@configuration.url}: not the answer of a fastcable server (#{answer.status})"
      end

      reason = content["error"].is_a?(String) ? content["error"] : answer.message
      raise (answer.status == 413 ? TooLarge : Refused).new(@configuration.url, answer.status, reason)
    end

    def parse(text)
      content = JSON.parse(text)
      content.is_a?(Hash) ? content : {}
    rescue JSON::ParserError, EncodingError
      {}
    end
  end
end

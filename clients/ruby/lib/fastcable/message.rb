# frozen_string_literal: true

require "json"

module Fastcable
  # One message as it is posted: {"stream":…,"data":…}. Binary strings, as all text in them is UTF-8.
  module Message
    class << self
      # data is whatever has a JSON form, as its to_json has it.
      def encode(stream:, data:, retain: false, exclude: nil)
        splice(stream, data.to_json, retain, exclude)
      end

      # json is one JSON value already, and becomes part of the message byte for byte.
      def from_json(stream:, json:, retain: false, exclude: nil)
        begin
          JSON.parse(json, max_nesting: false) # else it could add to the message what its author did not mean
        rescue JSON::ParserError, EncodingError, TypeError => error
          raise ArgumentError, "data is not JSON: #{error.message}"
        end
        splice(stream, json, retain, exclude)
      end

      private

      def splice(stream, json, retain, exclude)
        message = "{\"stream\":".b << utf8(JSON.generate(name(stream))) << ",\"data\":" << utf8(json)
        message << ",\"retain\":true" if flag(retain)
        message << ",\"exclude\":" << utf8(JSON.generate(socket(exclude))) unless exclude.nil?
        message << "}"
      end

      def utf8(text)
        (text.encoding == Encoding::BINARY ? text : text.encode(Encoding::UTF_8)).b
      end

      def name(stream)
        return stream.to_s if stream.is_a?(String) || stream.is_a?(Symbol)

        raise ArgumentError, "stream must be a String or a Symbol, not #{stream.class}"
      end

      def flag(retain)
        return retain if [true, false].include?(retain)

        raise ArgumentError, "retain must be true or false, not #{retain.inspect}"
      end

      def socket(exclude)
        return exclude if exclude.is_a?(String)

        raise ArgumentError, "exclude must be a String, the socket id of a connection, not #{exclude.class}"
      end
    end
  end
end

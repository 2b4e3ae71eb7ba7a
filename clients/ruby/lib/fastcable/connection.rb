# frozen_string_literal: true

require "net/http"
require "timeout"
require "uri"

require_relative "errors"
require_relative "version"

module Fastcable
  # One connection to the broadcast endpoint, kept open from one request to the next. Not for several threads at once.
  #
  # A message is delivered once or not at all. The server acts on a request when it has all of it. So until the last byte
  # is handed over, a failure is Unreachable; from then on it is Unanswered, and nothing is sent again: a connection that
  # ends looks the same whether the server had closed it before the request came, or was killed after it delivered.
  #
  # A kept connection may have ended while it was idle. Net::HTTP sees that before it sends anything, and connects anew;
  # it also gives up one that was idle for KEEP_ALIVE. If a kept connection ends while the request is being sent, the
  # request is sent again over a new one, once. (Net::HTTP repeats no POST of its own accord.)
  class Connection
    # Seconds after which a kept connection is not used any more; the server's keepalive_timeout is longer.
    KEEP_ALIVE = 30
    # Bytes. An answer is one short line.
    MAX_ANSWER = 64 * 1024

    Answer = Struct.new(:status, :message, :body)

    # The connection ended before the first byte of an answer.
    class Ended < StandardError
    end

    class TimedOut < StandardError
    end

    class AnswerTooLong < StandardError
    end

    FAILURES = [
      SystemCallError, SocketError, IOError, Net::OpenTimeout, Net::ReadTimeout, Net::WriteTimeout,
      Net::HTTPBadResponse, Net::HTTPHeaderSyntaxError, Net::ProtocolError, Ended, TimedOut, AnswerTooLong
    ].freeze

    # A POST that tells an answer that never began from one that broke off.
    class Post < Net::HTTP::Post
      attr_reader :socket, :sent

      def exec(socket, *)
        @socket = socket
        begin
          super
          @sent = true
        rescue Errno::EPIPE, Errno::ECONNRESET
          # A server that refuses a large body early has answered before it closed.
        end
        raise Ended if ended?
      end

      private

      def ended?
        @socket.eof?
      rescue SystemCallError
        true
      end
    end

    private_constant :Ended, :TimedOut, :AnswerTooLong, :FAILURES, :Post

    def initialize(configuration)
      uri = URI(configuration.url)
      @url = configuration.url
      @connect_timeout = configuration.connect_timeout
      @timeout = configuration.timeout
      @target = uri.request_uri
      @headers = {
        "Content-Type" => "application/json",
        "Accept-Encoding" => "identity",
        "User-Agent" => "fastcable-ruby/#{VERSION}"
      }
      @headers["Authorization"] = "Bearer #{configuration.key}" if configuration.key
      @http = Net::HTTP.new(uri.hostname, uri.port, nil) # nil: no proxy, whatever the environment says
      @http.use_ssl = uri.scheme == "https"
      @http.open_timeout = @connect_timeout
      @http.write_timeout = @http.read_timeout = @timeout
      @http.keep_alive_timeout = KEEP_ALIVE
      @http.max_retries = 0
      @failures = @http.use_ssl? ? [*FAILURES, OpenSSL::SSL::SSLError] : FAILURES
    end

    # The answer to a request with this body. After an error the connection is to be closed.
    def post(body)
      @sent = false
      Timeout.timeout(@timeout, TimedOut) do
        @http.start unless @http.started?
        exchange(body)
      rescue Ended
        raise if @sent || !@kept

        exchange(body) # over a new connection, as Net::HTTP has closed that one
      end
    rescue *@failures => error
      raise (@sent ? Unanswered : Unreachable), "#{@url}: #{describe(error)}"
    end

    def close
      @http.finish if @http.started?
    end

    # Without the key.
    def inspect
      "#<#{self.class} #{@url}>"
    end

    private

    def exchange(body)
      request = Post.new(@target, @headers)
      request.body = body
      content = +""
      response = @http.request(request) do |answer|
        answer.read_body do |piece|
          content << piece
          raise AnswerTooLong if content.bytesize > MAX_ANSWER
        end
      end
      # Net::HTTP takes an answer that breaks off for the whole.
      raise EOFError if response.content_length && content.bytesize < response.content_length

      Answer.new(response.code.to_i, response.message, content)
    ensure
      @kept = request.socket.equal?(@socket)
      @socket = request.socket
      @sent = request.sent
    end

    def describe(error)
      case error
      when Net::OpenTimeout then "no connection within #{@connect_timeout} s"
      when TimedOut, Net::ReadTimeout, Net::WriteTimeout then "#{@sent ? "no answer" : "not sent"} within #{@timeout} s"
      when Ended then "the connection was closed #{@sent ? "without an answer" : "before the message was sent"}"
      when EOFError then "the answer broke off"
      when AnswerTooLong then "the answer is longer than any of a broadcast endpoint"
      when Net::HTTPBadResponse, Net::HTTPHeaderSyntaxError, Net::ProtocolError then "the answer is not HTTP"
      else error.message
      end
    end
  end
end

# frozen_string_literal: true

require "fastcable"
require "minitest/autorun"
require "socket"
require "timeout"
require "uri"

# The broadcast endpoint of a running server, which also has a WebSocket endpoint at /cable.
SERVER = ENV.fetch("FASTCABLE_TEST_URL")
PATIENCE = 20 # seconds after which something that must happen has not happened

# A browser's part: a WebSocket that is subscribed to streams.
class Subscriber
  def self.to(*streams)
    subscriber = new(URI(SERVER))
    streams.each { |stream| subscriber.subscribe(stream) }
    yield subscriber
  ensure
    subscriber&.close
  end

  def initialize(uri)
    @socket = TCPSocket.new(uri.host, uri.port)
    @socket.write("GET /cable HTTP/1.1\r\nHost: #{uri.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" \
                  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    head = @socket.gets("\r\n\r\n")
    raise head unless head.start_with?("HTTP/1.1 101 ")
  end

  def subscribe(stream)
    answer = ask(type: "subscribe", stream: stream)
    raise answer unless answer.start_with?('{"type":"subscribed"')
  end

  # The connection's socket id.
  def id
    JSON.parse(ask(type: "hello")).fetch("socket")
  end

  # The text of the next frame that is not a ping.
  def receive
    Timeout.timeout(PATIENCE) do
      text = read_frame
      text = read_frame while ['{"type":"ping"}', ""].include?(text)
      text
    end
  end

  def close
    @socket.close
  end

  private

  def ask(**command)
    payload = JSON.generate(command).b
    raise ArgumentError, "longer than this client can send" if payload.bytesize > 125

    @socket.write([0x81, 0x80 | payload.bytesize, 0, 0, 0, 0].pack("C*") << payload) # masked with zeros
    receive
  end

  def read_frame
    _, length = @socket.read(2).unpack("C2")
    length = @socket.read(2).unpack1("n") if length == 126
    length = @socket.read(8).unpack1("Q>") if length == 127
    @socket.read(length).force_encoding(Encoding::UTF_8)
  end
end

# A broadcast endpoint that does as it is told: the block is given each connection, in a thread of its own.
class Endpoint
  OK = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"subscribers\":3}"

  attr_reader :requests, :connections

  def initialize(&serve)
    @server = TCPServer.new("127.0.0.1", 0)
    @requests = Queue.new
    @connections = Queue.new
    @serve = serve || ->(socket, endpoint) { endpoint.answer(socket) while endpoint.request(socket) }
    @threads = [Thread.new { accept }]
  end

  def url
    "http://127.0.0.1:#{@server.addr[1]}/_broadcast"
  end

  def publisher(**options)
    configuration = Fastcable::Configuration.new({})
    Fastcable::Publisher.new(configuration.update(url: url, **options))
  end

  # Reads a request, which is kept in `requests`; its body, or nil at the end.
  def request(socket)
    head = socket.gets("\r\n\r\n") or return
    body = socket.read(head[/^content-length: *(\d+)/i, 1].to_i)
    @requests << [head, body]
    body
  end

  def answer(socket, bytes = OK)
    socket.write(bytes)
  end

  def bodies
    Array.new(requests.size) { requests.pop.last }
  end

  def close
    @threads.each(&:kill).each(&:join)
    @server.close
  end

  private

  def accept
    loop do
      socket = @server.accept
      @connections << socket
      @threads << Thread.new do
        @serve.call(socket, self)
      rescue SystemCallError, IOError
        # the client has left
      ensure
        socket.close
      end
    end
  end
end

# frozen_string_literal: true

require_relative "helper"

require "openssl"

# Connections that are kept, that end and that fail: nothing is sent twice that may have been taken.
class ConnectionTest < Minitest::Test
  def serve(&block)
    @endpoint = Endpoint.new(&block)
    @publisher = @endpoint.publisher
  end

  def teardown
    @publisher&.close
    @endpoint&.close
  end

  def assert_unreachable(pattern, publisher = @publisher)
    assert_failed(Fastcable::Unreachable, pattern) { publisher.broadcast("news", 1) }
  end

  def assert_unanswered(pattern, publisher = @publisher)
    assert_failed(Fastcable::Unanswered, pattern) { publisher.broadcast("news", 1) }
  end

  def assert_failed(kind, pattern, &block)
    error = assert_raises(kind, &block)
    assert_match(pattern, error.message)
    assert_match(%r{\Ahttps?://\S+: }, error.message)
  end

  # Ends the connection with a reset.
  def reset(socket)
    socket.setsockopt(:SOCKET, :LINGER, [1, 0].pack("ii"))
    socket.close
  end

  def test_a_connection_is_kept
    serve
    5.times { assert_equal 3, @publisher.broadcast("news", 1) }
    assert_equal 1, @endpoint.connections.size
  end

  def test_a_kept_connection_that_was_closed_meanwhile_is_replaced
    serve
    @publisher.broadcast("news", 1)
    socket = @endpoint.connections.pop
    socket.close_write
    Timeout.timeout(PATIENCE) { Thread.pass until ended?(socket.remote_address) }
    assert_equal 3, @publisher.broadcast("news", 2)
    assert_equal ['{"stream":"news","data":1}', '{"stream":"news","data":2}'], @endpoint.bodies
    assert_equal 1, @endpoint.connections.size
  end

  # The server's FIN has arrived when the client's end is in CLOSE_WAIT.
  def ended?(client)
    port = format(":%04X", client.ip_port)
    File.foreach("/proc/net/tcp").any? do |line|
      _, local, _, state = line.split
      local.end_with?(port) && state == "08"
    end
  end

  def test_a_kept_connection_that_ends_before_the_message_is_sent_is_replaced
    first = true
    serve do |socket, endpoint|
      endpoint.request(socket)
      endpoint.answer(socket)
      next endpoint.request(socket) unless first

      first = false
      socket.readpartial(1)
      reset(socket)
    end
    @publisher.broadcast("news", 1)
    assert_equal 3, @publisher.broadcast("news", "x" * 2**24) # more than the sockets hold
    assert_equal [1, "x" * 2**24], @endpoint.bodies.map { |body| JSON.parse(body)["data"] }
    assert_equal 2, @endpoint.connections.size
  end

  def test_a_new_connection_that_ends_before_the_message_is_sent_is_an_error
    serve do |socket, _|
      socket.readpartial(1)
      reset(socket)
    end
    assert_failed(Fastcable::Unreachable, /the connection was closed before the message was sent/) do
      @publisher.broadcast("news", "x" * 2**24)
    end
    assert_equal 1, @endpoint.connections.size
  end

  [:close, :reset].each do |ending|
    define_method("test_what_was_sent_over_a_kept_connection_is_not_sent_again_after_its_#{ending}") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        endpoint.answer(socket)
        endpoint.request(socket)
        reset(socket) if ending == :reset
      end
      assert_equal 3, @publisher.broadcast("news", 1)
      assert_unanswered(/the connection was closed without an answer/)
      assert_equal 2, @endpoint.bodies.size
    end

    define_method("test_what_was_sent_over_a_new_connection_is_not_sent_again_after_its_#{ending}") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        reset(socket) if ending == :reset
      end
      assert_unanswered(/the connection was closed without an answer/)
      assert_equal 1, @endpoint.bodies.size
    end
  end

  [
    "H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"subscr"
  ].each_with_index do |part, index|
    define_method("test_an_answer_that_breaks_off_is_an_error_even_on_a_kept_connection_#{index}") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        endpoint.answer(socket)
        endpoint.request(socket)
        endpoint.answer(socket, part)
      end
      @publisher.broadcast("news", 1)
      assert_unanswered(/the answer broke off|the answer is not HTTP|not the answer of a fastcable server/)
      assert_equal 2, @endpoint.requests.size
    end
  end

  def test_an_answer_that_breaks_off_where_it_could_end_is_none
    serve do |socket, endpoint|
      endpoint.request(socket)
      endpoint.answer(socket, "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"subscribers\":3}")
    end
    assert_unanswered(/the answer broke off/)
  end

  {
    "no answer" => ->(_socket) {},
    "an answer that drips" => lambda { |socket|
      loop do
        socket.write("HTTP/1.1 200 OK\r\nX: #{"x" * 10}")
        sleep 0.02
      end
    },
    "a body that drips" => lambda { |socket|
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
      loop do
        socket.write(" ")
        sleep 0.02
      end
    }
  }.each do |name, behave|
    define_method("test_#{name.tr(" ", "_")}_ends_with_the_timeout_and_is_not_sent_again") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        behave.call(socket)
        endpoint.request(socket)
      end
      assert_unanswered(/no answer within 0\.2 s/, @endpoint.publisher(timeout: 0.2))
      assert_equal 1, @endpoint.requests.size
    end
  end

  def test_a_server_that_reads_nothing_ends_with_the_timeout
    serve { |socket, _| Thread.stop && socket }
    assert_failed(Fastcable::Unreachable, /not sent within 0\.2 s/) do
      @endpoint.publisher(timeout: 0.2).broadcast("news", "x" * 2**24)
    end
  end

  def test_a_late_answer_is_not_taken_for_the_next_one
    late = Queue.new
    serve do |socket, endpoint|
      endpoint.request(socket)
      late.pop
      endpoint.answer(socket, Endpoint::OK.sub("3", "9"))
    end
    assert_raises(Timeout::Error) { Timeout.timeout(0.1) { @publisher.broadcast("news", 1) } }
    late.close
    assert_equal 9, @publisher.broadcast("news", 2)
    assert_equal 2, @endpoint.connections.size
  end

  def test_nobody_listens
    port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    publisher = Fastcable::Publisher.new(Fastcable::Configuration.new({}).update(url: "http://127.0.0.1:#{port}/"))
    assert_unreachable(/refused/, publisher)
  end

  def test_no_such_host
    publisher = Fastcable::Publisher.new(Fastcable::Configuration.new({}).update(url: "http://host.invalid:1/"))
    assert_unreachable(/host\.invalid/, publisher)
  end

  def test_a_connection_that_is_not_accepted
    server = Socket.new(:INET, :STREAM)
    server.bind(Addrinfo.tcp("127.0.0.1", 0))
    server.listen(0)
    port = server.local_address.ip_port
    waiting = Array.new(3) { Socket.new(:INET, :STREAM) }
    waiting.each { |socket| socket.connect_nonblock(server.local_address, exception: false) }
    configuration = Fastcable::Configuration.new({}).update(url: "http://127.0.0.1:#{port}/", connect_timeout: 0.2)
    assert_unreachable(/no connection within 0\.2 s/, Fastcable::Publisher.new(configuration))
  ensure
    [server, *waiting].each(&:close)
  end

  {
    "SSH-2.0-OpenSSH_9.2\r\n\r\n" => /not HTTP/,
    "HTTP/1.1 200 OK\r\nno header\r\n\r\n" => /not HTTP/,
    "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n#{"x" * 99_999}" => /longer than any/
  }.each do |answer, problem|
    define_method("test_an_answer_like_#{answer.tr("^A-Za-z", "_")[0, 40]}") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        endpoint.answer(socket, answer)
        endpoint.request(socket)
      end
      assert_unanswered(problem)
    end
  end

  {
    "200 OK" => "OK", "200 Fine" => "[]", "200 Good" => '{"subscribers":"3"}', "201 Created" => ""
  }.each do |status, body|
    define_method("test_#{status.tr(" ", "_")}_from_another_server_is_an_error") do
      serve do |socket, endpoint|
        endpoint.request(socket)
        endpoint.answer(socket, "HTTP/1.1 #{status}\r\nContent-Length: #{body.bytesize}\r\n\r\n#{body}")
        endpoint.request(socket)
      end
      assert_unanswered(/not the answer of a fastcable server \(#{status.to_i}\)/)
    end
  end

  {
    "301 Moved Permanently" => ["<html>", "Moved Permanently"],
    "403 Forbidden" => ['{"error":["x"]}', "Forbidden"],
    "404 Nirgends \xfc" => ["", "Nirgends \uFFFD"],
    "422 Unprocessable" => ['{"error":"two\r\nlines"}', "two lines"],
    "502 Bad Gateway" => ["\xff", "Bad Gateway"],
    "503 Service Unavailable" => ['{"error":"more is posted than can be sent: try again later"}',
                                  "more is posted than can be sent: try again later"]
  }.each do |status, (body, reason)|
    define_method("test_an_answer_with_status_#{status.to_i}_is_a_refusal_with_its_reason") do
      serve do |socket, endpoint|
        while endpoint.request(socket)
          endpoint.answer(socket, "HTTP/1.1 #{status}\r\nContent-Length: #{body.bytesize}\r\n\r\n#{body}")
        end
      end
      2.times do
        error = assert_raises(Fastcable::Refused) { @publisher.broadcast("news", 1) }
        assert_equal [status.to_i, reason], [error.status, error.reason]
        refute_kind_of Fastcable::TooLarge, error
      end
      assert_equal 1, @endpoint.connections.size
    end
  end

  def test_an_answer_may_come_in_chunks_or_close_the_connection
    serve do |socket, endpoint|
      endpoint.request(socket)
      endpoint.answer(socket, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" \
                              "10\r\n{\"subscribers\":4\r\n1\r\n}\r\n0\r\n\r\n")
      endpoint.request(socket)
      endpoint.answer(socket, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"subscribers\":5}")
    end
    assert_equal [4, 5, 4, 5], Array.new(4) { @publisher.broadcast("news", 1) }
    assert_equal 2, @endpoint.connections.size
  end

  def test_https_needs_a_certificate_that_is_trusted
    key, certificate = certificate_for("127.0.0.1")
    context = OpenSSL::SSL::SSLContext.new
    context.add_certificate(certificate, key)
    serve do |socket, endpoint|
      secure = OpenSSL::SSL::SSLSocket.new(socket, context).accept
      endpoint.answer(secure) while endpoint.request(secure)
    rescue OpenSSL::SSL::SSLError
      # the client does not trust it
    end
    publisher = @endpoint.publisher(url: @endpoint.url.sub("http:", "https:"))
    assert_unreachable(/certificate verify failed/, publisher)
    OpenSSL::SSL::SSLContext::DEFAULT_CERT_STORE.add_cert(certificate)
    2.times { assert_equal 3, publisher.broadcast("news", 1) }
    assert_equal 2, @endpoint.connections.size
  end

  def certificate_for(address)
    key = OpenSSL::PKey::EC.generate("prime256v1")
    certificate = OpenSSL::X509::Certificate.new
    certificate.version = 2
    certificate.serial = 1
    certificate.subject = certificate.issuer = OpenSSL::X509::Name.parse("/CN=test")
    certificate.not_before = Time.now - 60
    certificate.not_after = Time.now + 3600
    certificate.public_key = key
    extensions = OpenSSL::X509::ExtensionFactory.new(certificate, certificate)
    certificate.add_extension(extensions.create_extension("basicConstraints", "CA:TRUE", true))
    certificate.add_extension(extensions.create_extension("subjectAltName", "IP:#{address}"))
    [key, certificate.sign(key, "SHA256")]
  end

  def test_errors_are_logged_if_wanted
    serve { |socket, endpoint| endpoint.request(socket) && endpoint.answer(socket, "HTTP/1.1 500 Oops\r\n\r\n") }
    logger = Object.new
    lines = []
    logger.define_singleton_method(:error) { |line| lines << line }
    publisher = @endpoint.publisher(on_error: :log, logger: logger)
    assert_nil publisher.broadcast("news", 1)
    assert_nil publisher.broadcast_json("news", "1")
    assert_nil publisher.broadcast_many([{ stream: "news", data: 1 }] * 2)
    assert_equal ["to news", "to news", "of 2 messages"].map { |what|
      "Fastcable: the broadcast #{what} failed: #{@endpoint.url}: 500 Oops"
    }, lines
    assert_raises(ArgumentError) { publisher.broadcast(nil, 1) }
    assert_output(nil, /failed: \S+: 500 Oops/) { @endpoint.publisher(on_error: :log).broadcast("news", 1) }
  end

  def test_a_proxy_of_the_environment_is_not_used
    serve
    variables = %w[http_proxy HTTP_PROXY]
    before = variables.to_h { |name| [name, ENV.fetch(name, nil)] }
    variables.each { |name| ENV[name] = "http://127.0.0.1:1" }
    assert_equal 3, @publisher.broadcast("news", 1)
  ensure
    before.each { |name, value| ENV[name] = value }
  end

  def test_a_forked_process_has_connections_of_its_own
    serve
    @publisher.broadcast("news", "parent")
    child = fork { exit!(@publisher.broadcast("news", "child") == 3) }
    assert_predicate Process.wait2(child).last, :success?
    @publisher.broadcast("news", "parent")
    assert_equal 2, @endpoint.connections.size
    assert_equal 3, @endpoint.requests.size
  end

  def test_as_many_connections_are_kept_as_there_is_room_for
    size = Fastcable::Pool::SIZE + 2
    everybody = Queue.new
    serve do |socket, endpoint|
      while endpoint.request(socket)
        everybody.pop
        endpoint.answer(socket)
      end
    end
    threads = Array.new(size) { Thread.new { @publisher.broadcast("news", 1) } }
    Timeout.timeout(PATIENCE) { Thread.pass until @endpoint.requests.size == size }
    everybody.close
    assert_equal [3] * size, threads.map(&:value)
    assert_equal size, @endpoint.connections.size
    assert_equal Fastcable::Pool::SIZE, @publisher.instance_variable_get(:@pool).instance_variable_get(:@idle).size
    @publisher.close
    assert_equal 3, @publisher.broadcast("news", 1)
    assert_equal size + 1, @endpoint.connections.size
  end
end

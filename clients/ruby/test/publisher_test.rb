# frozen_string_literal: true

require_relative "helper"

# What is published to a running server, and what its subscribers get.
class PublisherTest < Minitest::Test
  def setup
    Fastcable.configure { |config| config.url = SERVER }
  end

  def frame(json, stream: "news")
    "{\"type\":\"message\",\"stream\":#{JSON.generate(stream)},\"data\":#{json}}"
  end

  {
    "an object" => { heat: 4, "dancers" => [101, 102] },
    "a string" => "hello",
    "an empty string" => "",
    "HTML" => "<turbo-stream action=\"append\">&amp;</turbo-stream>",
    "characters beyond ASCII" => "Grüße 世界 💃 \u2028",
    "nil" => nil,
    "false" => false,
    "an integer over 64 bits" => 2**200,
    "a float" => 0.1,
    "nested arrays" => [[[]], [{}]]
  }.each do |name, data|
    define_method("test_#{name.tr(" ", "_")}_arrives_as_its_JSON") do
      Subscriber.to("news") do |subscriber|
        assert_equal 1, Fastcable.broadcast("news", data)
        assert_equal frame(data.to_json), subscriber.receive
      end
    end
  end

  [
    '{"b": 1, "a":1.0E+2}', "123456789012345678901234567890.10", '"\u003cturbo-stream\u003e"', "null",
    "#{"[" * 200}#{"]" * 200}", "\"\u2028\""
  ].each_with_index do |json, index|
    define_method("test_JSON_text_#{index}_arrives_byte_for_byte") do
      Subscriber.to("news") do |subscriber|
        assert_equal 1, Fastcable.broadcast_json("news", json)
        assert_equal frame(json), subscriber.receive
      end
    end
  end

  def test_JSON_in_another_encoding_arrives_as_UTF8
    Subscriber.to("news") do |subscriber|
      Fastcable.broadcast_json("news", '"Grüße"'.encode(Encoding::UTF_16LE))
      assert_equal frame('"Grüße"'), subscriber.receive
      Fastcable.broadcast_json("news", '"Grüße"'.b)
      assert_equal frame('"Grüße"'), subscriber.receive
    end
  end

  def test_a_retained_value_is_there_for_later_subscribers
    Fastcable.broadcast("state", { heat: 4 }, retain: true)
    Fastcable.broadcast_many([{ stream: "state", data: 5, retain: true }, { stream: "state", data: "not kept" }])
    Subscriber.to("state") do |subscriber|
      assert_equal frame("5", stream: "state"), subscriber.receive
      Fastcable.broadcast("state", nil, retain: true)
      assert_equal frame("null", stream: "state"), subscriber.receive
    end
    Subscriber.to("state") do |subscriber|
      Fastcable.broadcast("state", "first")
      assert_equal frame('"first"', stream: "state"), subscriber.receive
    end
  end

  def test_the_excluded_connection_gets_nothing
    Subscriber.to("news") do |sender|
      Subscriber.to("news") do |other|
        id = sender.id
        Fastcable.broadcast("news", 1, exclude: id)
        Fastcable.broadcast_json("news", "2", exclude: id)
        Fastcable.broadcast_many([{ stream: "news", data: 3, exclude: id }, { stream: "news", data: 4 }])
        assert_equal [1, 2, 3, 4], Array.new(4) { JSON.parse(other.receive)["data"] }
        assert_equal frame("4"), sender.receive
      end
    end
  end

  def test_the_number_of_subscribers_is_returned
    Subscriber.to("news") do
      Subscriber.to("news", "other") do
        assert_equal 2, Fastcable.broadcast("news", 1)
        assert_equal 1, Fastcable.broadcast(:other, 1)
        assert_equal 0, Fastcable.broadcast("nobody's", 1)
        assert_equal 3, Fastcable.broadcast_many([{ stream: "news", data: 1 }, { stream: "other", data: 2 }])
      end
    end
  end

  def test_a_stream_may_have_any_printable_name
    name = "Grüße/\"{}\\ 世界"
    Subscriber.to(name) do |subscriber|
      Fastcable.broadcast(name, 1)
      assert_equal frame("1", stream: name), subscriber.receive
    end
  end

  def test_a_batch_arrives_in_the_order_of_each_stream
    Subscriber.to("news", "other") do |subscriber|
      Fastcable.broadcast_many(
        [{ stream: "news", data: 1 }, { stream: :other, data: "x" }, { stream: "news", data: { a: 2 } }]
      )
      others, news = Array.new(3) { subscriber.receive }.partition { |text| text.include?('"other"') }
      assert_equal [frame("1"), frame('{"a":2}')], news
      assert_equal [frame('"x"', stream: "other")], others
    end
  end

  def test_a_batch_is_sent_whole_or_not_at_all
    Subscriber.to("news") do |subscriber|
      error = assert_raises(Fastcable::Refused) do
        Fastcable.broadcast_many([{ stream: "news", data: "lost" }, { stream: "", data: 2 }])
      end
      assert_equal [400, "message 1 of the batch: stream must not be empty"], [error.status, error.reason]
      Fastcable.broadcast("news", "next")
      assert_equal frame('"next"'), subscriber.receive
    end
  end

  def test_a_batch_of_none_is_none
    assert_equal 0, Fastcable.broadcast_many([])
  end

  def test_the_largest_batch_is_1000_messages
    message = { stream: "news", data: 1 }
    assert_equal 0, Fastcable.broadcast_many([message] * 1000)
    error = assert_raises(Fastcable::TooLarge) { Fastcable.broadcast_many([message] * 1001) }
    assert_equal 413, error.status
    assert_match(/max_batch/, error.reason)
  end

  def test_the_largest_body_is_1_MiB
    rest = '{"stream":"news","data":""}'.bytesize
    [-1, 0].each { |more| assert_equal 0, Fastcable.broadcast("news", "x" * (2**20 - rest + more)) }
    [1, 2**22].each do |more|
      error = assert_raises(Fastcable::TooLarge) { Fastcable.broadcast("news", "x" * (2**20 - rest + more)) }
      assert_kind_of Fastcable::Refused, error
      assert_equal 413, error.status
      assert_match(/max_broadcast_size \(1048576 bytes\)/, error.message)
    end
  end

  def test_a_message_that_the_server_refuses_names_the_field
    error = assert_raises(Fastcable::Refused) { Fastcable.broadcast("a\nb", 1) }
    assert_equal 400, error.status
    assert_match(/\Astream /, error.reason)
    assert_equal "#{SERVER}: 400 #{error.reason}", error.message
  end

  def test_a_key_is_sent_and_needed_where_there_is_one
    keyed = ENV.fetch("FASTCABLE_TEST_KEYED_URL")
    Fastcable.configure { |config| config.update(url: keyed, key: "s3cret") }
    assert_equal 0, Fastcable.broadcast("news", 1)
    [nil, "wrong"].each do |key|
      Fastcable.configure { |config| config.key = key }
      error = assert_raises(Fastcable::Refused) { Fastcable.broadcast("news", 1) }
      assert_equal 401, error.status
    end
  ensure
    Fastcable.configure { |config| config.key = nil }
  end

  def test_what_is_no_broadcast_endpoint_is_told
    { "/fastcable.js" => [405, "GET and HEAD only"], "/nothing" => [404, "not found"] }.each do |path, answer|
      Fastcable.configure { |config| config.url = URI.join(SERVER, path).to_s }
      error = assert_raises(Fastcable::Refused) { Fastcable.broadcast("news", 1) }
      assert_equal answer, [error.status, error.reason]
    end
  end

  def test_threads_share_a_publisher
    Subscriber.to("news") do |subscriber|
      threads = Array.new(12) do |thread|
        Thread.new { Array.new(20) { |index| Fastcable.broadcast("news", [thread, index]) } }
      end
      assert_equal [1] * 240, threads.flat_map(&:value)
      received = Array.new(240) { JSON.parse(subscriber.receive)["data"] }
      12.times do |thread|
        assert_equal Array.new(20) { |index| [thread, index] }, received.select { |from, _| from == thread }
      end
    end
  end

  def test_forked_processes_share_a_publisher
    Subscriber.to("news") do |subscriber|
      Fastcable.broadcast("news", "before")
      children = Array.new(4) do |child|
        fork do
          done = Array.new(20) { |index| Fastcable.broadcast("news", [child, index]) } == [1] * 20
        ensure
          exit!(done) # without running the tests again
        end
      end
      20.times { assert_equal 1, Fastcable.broadcast("news", "parent") }
      children.each { |child| assert_predicate Process.wait2(child).last, :success? }
      received = Array.new(101) { JSON.parse(subscriber.receive)["data"] }
      assert_equal "before", received.shift
      assert_equal 20, received.count("parent")
      4.times { |child| assert_equal [*0...20], received.select { |from, _| from == child }.map(&:last) }
    end
  end
end

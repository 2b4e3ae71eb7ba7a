# frozen_string_literal: true

require_relative "helper"

# What is posted, byte for byte, and what is refused before it is.
class MessageTest < Minitest::Test
  def setup
    @endpoint = Endpoint.new
    @publisher = @endpoint.publisher
  end

  def teardown
    @publisher.close
    @endpoint.close
  end

  def posted
    yield @publisher
    @endpoint.bodies.last
  end

  def test_a_message
    assert_equal '{"stream":"news","data":{"a":1}}', posted { |publisher| publisher.broadcast("news", { a: 1 }) }
  end

  def test_retain_and_exclude_are_sent_if_wanted
    assert_equal '{"stream":"news","data":1,"retain":true,"exclude":"id\"1"}',
                 posted { |publisher| publisher.broadcast("news", 1, retain: true, exclude: 'id"1') }
    assert_equal '{"stream":"news","data":1}',
                 posted { |publisher| publisher.broadcast("news", 1, retain: false, exclude: nil) }
    assert_equal '{"stream":"news","data":null,"retain":true}',
                 posted { |publisher| publisher.broadcast_json("news", "null", retain: true) }
    assert_equal '[{"stream":"a","data":1,"retain":true},{"stream":"b","data":2,"exclude":"x"}]',
                 posted { |publisher|
                   publisher.broadcast_many(
                     [{ stream: "a", data: 1, retain: true }, { stream: "b", data: 2, exclude: "x" }]
                   )
                 }
  end

  def test_the_head_is_short_and_has_the_key_only_if_there_is_one
    @publisher.broadcast("news", 1)
    head, = @endpoint.requests.pop
    assert_match(%r{\APOST /_broadcast HTTP/1\.1\r\n}, head)
    assert_match(%r{^content-type: application/json\r$}i, head)
    refute_match(/^authorization|^accept-encoding: .*gzip/i, head)
    @endpoint.publisher(key: "s3cret").broadcast("news", 1)
    head, = @endpoint.requests.pop
    assert_match(/^authorization: Bearer s3cret\r$/i, head)
  end

  {
    "two values" => "1 2",
    "another member" => '1,"stream":"other"',
    "another message" => '1},{"stream":"other","data":2',
    "no JSON" => "hello",
    "nothing" => "",
    "an open string" => '"x',
    "NaN" => "NaN"
  }.each do |name, json|
    define_method("test_JSON_text_with_#{name.tr(" ", "_")}_is_refused") do
      error = assert_raises(ArgumentError) { @publisher.broadcast_json("news", json) }
      assert_match(/\Adata is not JSON: /, error.message)
      assert_predicate @endpoint.requests, :empty?
    end
  end

  def test_what_is_no_text_is_no_JSON_text
    error = assert_raises(ArgumentError) { @publisher.broadcast_json("news", { a: 1 }) }
    assert_match(/\Adata is not JSON: /, error.message)
  end

  {
    "stream must be a String or a Symbol, not NilClass" => { stream: nil },
    "stream must be a String or a Symbol, not Integer" => { stream: 7 },
    'retain must be true or false, not "yes"' => { retain: "yes" },
    "retain must be true or false, not nil" => { retain: nil },
    "exclude must be a String, the socket id of a connection, not Integer" => { exclude: 7 }
  }.each do |problem, wrong|
    define_method("test_#{problem.downcase.tr("^a-z", "_")}") do
      message = { stream: "news", data: 1, **wrong }
      stream, data = message.values_at(:stream, :data)
      error = assert_raises(ArgumentError) { @publisher.broadcast(stream, data, **message.slice(:retain, :exclude)) }
      assert_equal problem, error.message
      error = assert_raises(ArgumentError) { @publisher.broadcast_many([{ stream: "news", data: 1 }, message]) }
      assert_equal "message 1: #{problem}", error.message
      assert_predicate @endpoint.requests, :empty?
    end
  end

  {
    "message 0: missing keyword: :data" => { stream: "news" },
    "message 0: unknown keyword: :steam" => { steam: "news", stream: "news", data: 1 }
  }.each do |problem, message|
    define_method("test_#{problem.tr("^a-z", "_")}") do
      error = assert_raises(ArgumentError) { @publisher.broadcast_many([message]) }
      assert_equal problem, error.message
    end
  end

  def test_a_message_of_a_batch_is_a_hash
    error = assert_raises(ArgumentError) { @publisher.broadcast_many([["news", 1]]) }
    assert_match(/\Amessage 0: /, error.message)
  end

  def test_data_without_a_JSON_form_is_an_error_of_the_json_library
    assert_raises(JSON::GeneratorError) { @publisher.broadcast("news", Float::NAN) }
    assert_raises(JSON::GeneratorError) { @publisher.broadcast("news", "\xff") }
    assert_predicate @endpoint.requests, :empty?
  end
end

# frozen_string_literal: true

require_relative "helper"

require "logger"
require "stringio"
require "active_support/all"
require "action_cable"
require "minitest/mock"

class ScoresChannel < ActionCable::Channel::Base
end

# `adapter: fastcable`, as Action Cable uses it.
class ActionCableTest < Minitest::Test
  Record = Struct.new(:id) do
    def to_gid_param
      "gid-#{id}"
    end
  end

  def server(**entries)
    @log = StringIO.new
    configuration = ActionCable::Server::Configuration.new
    configuration.cable = { adapter: "fastcable", url: SERVER, **entries }.with_indifferent_access # as in Rails
    configuration.logger = Logger.new(@log)
    ActionCable::Server::Base.new(config: configuration)
  end

  def frame(stream, json)
    "{\"type\":\"message\",\"stream\":\"#{stream}\",\"data\":#{json}}"
  end

  def test_the_adapter_is_found_by_its_name
    assert_equal "ActionCable::SubscriptionAdapter::Fastcable", server.pubsub.class.name
  end

  {
    { "heat" => 4 } => '{"heat":4}',
    { at: Time.utc(2026, 11, 23), html: "<b>" } => '{"at":"2026-11-23T00:00:00.000Z","html":"\u003cb\u003e"}',
    "text" => '"text"',
    nil => "null",
    [1, 2.5, true] => "[1,2.5,true]"
  }.each_with_index do |(message, json), index|
    define_method("test_a_broadcast_arrives_as_a_JSON_value_#{index}") do
      Subscriber.to("news") do |subscriber|
        assert_equal 1, server.broadcast("news", message)
        assert_equal frame("news", json), subscriber.receive
      end
    end
  end

  # Turbo::StreamsChannel.broadcast_stream_to(*streamables, content:) ends in this call: the stream's name is made of
  # those of the streamables, and the content is HTML.
  def test_a_turbo_stream_arrives_as_a_string_of_HTML
    html = "<turbo-stream action=\"append\" target=\"heats\"><template>4 & up</template></turbo-stream>\n"
    stream_name = [Record.new(7), :heats].map { |one| one.try(:to_gid_param) || one.to_param }.join(":")
    Subscriber.to("gid-7:heats") do |subscriber|
      server.broadcast(stream_name, html.html_safe)
      received = subscriber.receive
      assert_equal html, JSON.parse(received)["data"]
      assert_equal frame("gid-7:heats", ActiveSupport::JSON.encode(html)), received
    end
  end

  def test_broadcast_to_publishes_to_the_stream_of_the_channel_and_the_record
    cable = server
    ActionCable.stub(:server, -> { cable }) do
      Subscriber.to("scores:gid-7", "scores:final") do |subscriber|
        ScoresChannel.broadcast_to(Record.new(7), { heat: 4 })
        assert_equal frame("scores:gid-7", '{"heat":4}'), subscriber.receive
        ScoresChannel.broadcast_to("final", { heat: 5 })
        assert_equal frame("scores:final", '{"heat":5}'), subscriber.receive
      end
    end
  end

  def test_without_a_coder_the_message_is_JSON_text
    Subscriber.to("news") do |subscriber|
      server.broadcast("news", '{"a": 1.0E2}', coder: nil)
      assert_equal frame("news", '{"a": 1.0E2}'), subscriber.receive
    end
    error = assert_raises(ArgumentError) { server.broadcast("news", '1,"stream":"other"', coder: nil) }
    assert_match(/\Adata is not JSON/, error.message)
  end

  def test_a_channel_prefix_is_part_of_the_stream
    Subscriber.to("app_production:news") do |subscriber|
      server(channel_prefix: "app_production").broadcast("news", 1)
      assert_equal frame("app_production:news", "1"), subscriber.receive
    end
  end

  def test_errors_are_raised_unless_they_are_to_be_logged
    nowhere = "http://127.0.0.1:1/_broadcast"
    assert_raises(Fastcable::Unreachable) { server(url: nowhere).broadcast("news", 1) }
    assert_nil server(url: nowhere, on_error: "log").broadcast("news", 1)
    assert_match(/ERROR .*Fastcable: the broadcast to news failed: #{nowhere}: .*refused/, @log.string)
  end

  def test_the_options_of_cable_yml
    keyed = ENV.fetch("FASTCABLE_TEST_KEYED_URL")
    assert_equal 0, server(url: keyed, key: "s3cret", timeout: 5, connect_timeout: 0.5, id: "x").broadcast("news", 1)
    assert_raises(Fastcable::Refused) { server(url: keyed, key: nil).broadcast("news", 1) }
    error = assert_raises(ArgumentError) { server(ssl_params: {}).broadcast("news", 1) }
    assert_equal "config/cable.yml: unknown option ssl_params", error.message
  end

  def test_what_cable_yml_leaves_out_is_as_configured
    before = Fastcable.configuration
    Fastcable.configure { |config| config.update(url: SERVER, on_error: :log) }
    assert_equal 0, server(url: nil).broadcast("news", 1)
    assert_nil server(url: "http://127.0.0.1:1/").broadcast("news", 1)
  ensure
    Fastcable.configure { |config| config.update(url: before.url, on_error: before.on_error) }
  end

  def test_nobody_can_subscribe_through_Action_Cable
    cable = server
    error = assert_raises(Fastcable::Error) { cable.pubsub.subscribe("news", ->(_) {}, -> { flunk "confirmed" }) }
    assert_match(/\Anobody can subscribe to news through Action Cable: .*#{SERVER}/, error.message)
    assert_match(/ERROR .*#{Regexp.escape(error.message)}/, @log.string)
    cable.pubsub.unsubscribe("news", ->(_) {}) # as Action Cable does when the connection ends
  end

  def test_a_restart_closes_the_connections
    cable = server
    assert_equal 0, cable.broadcast("news", 1)
    cable.restart
    assert_equal 0, cable.broadcast("news", 1)
  end
end

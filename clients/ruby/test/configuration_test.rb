# frozen_string_literal: true

require_relative "helper"

# Settings: where they come from, and what is told of wrong ones.
class ConfigurationTest < Minitest::Test
  def configuration(environment = {})
    Fastcable::Configuration.new(environment)
  end

  def test_defaults
    settings = configuration
    assert_equal ["http://127.0.0.1:3000/_broadcast", nil, 1, 2, :raise, nil],
                 Fastcable::Configuration::OPTIONS.map { |name| settings.public_send(name) }
  end

  def test_the_environment
    ours, navigator, turbo_cable = %w[http://a/ http://b/ http://c/]
    all = { "FASTCABLE_BROADCAST_URL" => ours, "NAVIGATOR_BROADCAST_URL" => navigator,
            "TURBO_CABLE_BROADCAST_URL" => turbo_cable, "FASTCABLE_BROADCAST_KEY" => "s3cret" }
    assert_equal [ours, "s3cret"], [configuration(all).url, configuration(all).key]
    assert_equal navigator, configuration(all.except("FASTCABLE_BROADCAST_URL")).url
    assert_equal turbo_cable, configuration(all.slice("TURBO_CABLE_BROADCAST_URL")).url
    assert_equal navigator, configuration(all.merge("FASTCABLE_BROADCAST_URL" => "")).url
    assert_nil configuration("FASTCABLE_BROADCAST_KEY" => "").key
  end

  def test_a_wrong_variable_is_named
    error = assert_raises(ArgumentError) { configuration("TURBO_CABLE_BROADCAST_URL" => "localhost:3000") }
    assert_match(/\ATURBO_CABLE_BROADCAST_URL: url must be like http:/, error.message)
    error = assert_raises(ArgumentError) { configuration("FASTCABLE_BROADCAST_KEY" => "two words") }
    assert_match(/\AFASTCABLE_BROADCAST_KEY: key must be printable ASCII/, error.message)
  end

  {
    url: [nil, "", "localhost", "ftp://localhost/", "http://", "http:///x", "http://a b/", 7],
    key: ["", "two words", "line\n", "Schlüssel", 7],
    connect_timeout: [0, -1, "1", nil, Float::INFINITY, Float::NAN],
    timeout: [0, -0.5, true],
    on_error: [nil, "ignore", :warn]
  }.each do |option, values|
    values.each_with_index do |value, index|
      define_method("test_wrong_#{option}_#{index}") do
        error = assert_raises(ArgumentError) { configuration.public_send("#{option}=", value) }
        assert_match(/\A#{option} must /, error.message)
      end
    end
  end

  def test_a_key_is_never_shown
    settings = configuration.update(key: "s3cret")
    shown = [settings, Fastcable::Publisher.new(settings), Fastcable::Connection.new(settings)]
    refute_match(/s3cret/, shown.inspect)
    error = assert_raises(ArgumentError) { settings.key = "s3cret words" }
    refute_match(/s3cret/, error.message)
    error = assert_raises(ArgumentError) { settings.url = "http://user:s3cret@host/" }
    refute_match(/s3cret/, error.message)
  end

  def test_entries_of_cable_yml
    entries = { "adapter" => "fastcable", "channel_prefix" => "app", "id" => "x", "url" => nil, "timeout" => 5,
                "on_error" => "log" }
    settings = configuration.update_from_cable(entries)
    assert_equal ["http://127.0.0.1:3000/_broadcast", 5, :log], [settings.url, settings.timeout, settings.on_error]
    %w[timeuot logger].each do |unknown|
      error = assert_raises(ArgumentError) { configuration.update_from_cable(unknown => 5) }
      assert_equal "config/cable.yml: unknown option #{unknown}", error.message
    end
    error = assert_raises(ArgumentError) { configuration.update_from_cable("timeout" => "soon") }
    assert_equal 'config/cable.yml: timeout must be a number of seconds above 0, not "soon"', error.message
  end

  def test_configure_holds_from_the_next_broadcast_on
    before = Fastcable.configuration
    endpoints = Array.new(2) { Endpoint.new }
    endpoints.each do |endpoint|
      Fastcable.configure { |config| config.url = endpoint.url }
      Fastcable.broadcast("news", 1)
    end
    assert_equal [1, 1], endpoints.map { |endpoint| endpoint.requests.size }
    assert_raises(ArgumentError) { Fastcable.configure { |config| config.url = "nowhere" } }
    assert_equal endpoints.last.url, Fastcable.configuration.url
    assert_predicate Fastcable.configuration, :frozen?
  ensure
    Fastcable.configure { |config| config.url = before.url }
    endpoints.each(&:close)
  end
end

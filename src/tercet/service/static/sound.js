// A recording from the microphone as a WAV file, which the service reads; browsers record in formats that it does not.
"use strict";

const Recorder = {
  available() {
    return Boolean(navigator.mediaDevices && navigator.mediaDevices.getUserMedia && window.MediaRecorder && window.AudioContext);
  },

  // Starts recording; gives a function that stops it and promises a File.
  async start() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const recorder = new MediaRecorder(stream);
    const chunks = [];
    recorder.ondataavailable = (event) => chunks.push(event.data);
    recorder.start();
    return () => new Promise((resolve, reject) => {
      recorder.onstop = async () => {
        stream.getTracks().forEach((track) => track.stop());
        const context = new AudioContext();
        try {
          const sound = await context.decodeAudioData(await new Blob(chunks).arrayBuffer());
          resolve(new File([Recorder.wav(sound)], "recording.wav", { type: "audio/wav" }));
        } catch (error) {
          reject(error);
        } finally {
          context.close();
        }
      };
      recorder.stop();
    });
  },

  // One channel of 16 bits.
  wav(sound) {
    const samples = sound.getChannelData(0);
    const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
    const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    text(0, "RIFF");
    view.setUint32(4, 36 + 2 * samples.length, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    view.setUint16(20, 1, true);
    view.setUint16(22, 1, true);
    view.setUint32(24, sound.sampleRate, true);
    view.setUint32(28, 2 * sound.sampleRate, true);
    view.setUint16(32, 2, true);
    view.setUint16(34, 16, true);
    text(36, "data");
    view.setUint32(40, 2 * samples.length, true);
    samples.forEach((value, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, value)), true));
    return view.buffer;
  },
};
